FROM alpine AS busybox
RUN echo 1
FROM busybox
RUN echo 2
