FROM busybox
RUN hostname
RUN --mount=type=cache,target=/c true
# options: --build-arg BUILDKIT_SANDBOX_HOSTNAME=box --build-arg BUILDKIT_CACHE_MOUNT_NS=team
