FROM busybox
ARG a=1
ARG a=2 b=$a
RUN echo $b
