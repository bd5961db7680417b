FROM busybox AS a
RUN make
FROM busybox AS b
RUN make
FROM scratch
COPY --from=a /x /a/
COPY --from=b /x /b/
