FROM busybox
ONBUILD RUN echo later
ONBUILD USER $who
