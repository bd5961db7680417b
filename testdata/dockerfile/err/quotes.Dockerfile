FROM busybox
COPY "a b" c
WORKDIR "a
USER 'x
