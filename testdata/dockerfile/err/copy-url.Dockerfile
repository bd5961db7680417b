FROM busybox
COPY https://example.com/x /
COPY https://example.com/x.git /
