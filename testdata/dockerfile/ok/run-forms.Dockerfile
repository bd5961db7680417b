FROM busybox
RUN ["echo", "a b"]
RUN [ -f /x ] || true
RUN echo "[not json]"
SHELL ["/bin/ash", "-eo", "pipefail", "-c"]
RUN echo x
CMD echo y
ENTRYPOINT exec z
