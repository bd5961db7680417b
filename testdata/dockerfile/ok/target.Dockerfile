FROM busybox AS one
RUN echo 1
FROM busybox AS two
RUN echo 2
# options: --target ONE
