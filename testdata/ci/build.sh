#!/bin/sh
# Builds and pushes an image on a runner that begins empty, as an ordinary user, in a container
# without privileges. Needs rbuild, and in the environment:
#
#   IMAGE     where to push to, without a tag: registry.example/team/app
#   TAG       the tag that the result gets when it is pushed
#   CONTEXT   directory of the Dockerfile [default: .]
#
# Credentials come from ~/.docker/config.json, or from REGISTRY_USER and REGISTRY_PASSWORD.
set -eu

if [ -n "${REGISTRY_PASSWORD-}" ]; then
  printf %s "$REGISTRY_PASSWORD" |
    rbuild login --username "$REGISTRY_USER" --password-stdin "${IMAGE%%/*}"
fi

# What earlier runs made is fetched when a step needs it, and what this one makes is added to it.
# The image is pushed by its digest: nothing else can move it while later jobs look at it.
rbuild build --progress plain \
  --cache-from "type=registry,ref=$IMAGE:cache" \
  --cache-to "type=registry,ref=$IMAGE:cache,mode=max,ignore-error=true" \
  -o "type=image,name=$IMAGE,push=true,push-by-digest=true" \
  --metadata-file metadata.json \
  "${CONTEXT:-.}"

digest=$(sed -n 's/.*"containerimage.digest": "\(sha256:[0-9a-f]*\)".*/\1/p' metadata.json)
echo "pushed $IMAGE@$digest"

# The name comes last, when all is well: tests of $IMAGE@$digest belong before it.
rbuild pull -q "$IMAGE@$digest"
rbuild push -q "$IMAGE@$digest" "$IMAGE:$TAG"
