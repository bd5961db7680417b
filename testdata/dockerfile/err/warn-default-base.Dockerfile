ARG TAG
FROM busybox:${TAG}
# options: --build-arg TAG=1
