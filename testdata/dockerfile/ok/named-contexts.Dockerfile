FROM alpine AS deps
RUN false
FROM busybox:latest
COPY --from=src . /src
COPY --from=deps /x /y
# options: --build-context src --build-context deps --build-context busybox=image:debian:12
