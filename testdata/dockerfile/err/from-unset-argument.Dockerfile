ARG VERSION
FROM busybox:$VERSION
FROM busybox:${VERSOIN}-slim
FROM --platform=$NOTHING busybox
