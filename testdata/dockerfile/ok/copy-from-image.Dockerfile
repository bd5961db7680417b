FROM scratch
COPY --from=nginx:1.27 /etc/nginx/nginx.conf /
COPY --from=ghcr.io/a/b@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa /x /
