FROM busybox
HEALTHCHECK CMD ["/check", "-q"]
