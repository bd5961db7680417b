# escape=`
FROM busybox
COPY --from=0 a b
COPY --chown=1 --chown=2 a b
