FROM busybox
RUN <<EOF
echo a
USER
