# syntax=example/other:1
FROM busybox
ARG VERSION
# options: --build-arg BUILDKIT_SYNTAX=docker/dockerfile:1.4 --build-arg BUILDKIT_INLINE_CACHE=1 --build-arg BUILDKIT_MULTI_PLATFORM=0 --build-arg BUILDKIT_INLINE_CACH=1 --build-arg VERSON=1 --build-arg BUILDKIT_SBOM_SCAN_STAGE=1
