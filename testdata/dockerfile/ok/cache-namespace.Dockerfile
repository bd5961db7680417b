FROM busybox
RUN --mount=type=cache,target=/c true
# options: --build-arg BUILDKIT_CACHE_MOUNT_NS=team
