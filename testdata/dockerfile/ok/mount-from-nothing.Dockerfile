FROM busybox
RUN --mount=type=bind,source=a,from=,target=/x cat /x
