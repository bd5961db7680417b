FROM busybox
COPY --link=yes a b
COPY --chown a b
COPY --parents= a b
