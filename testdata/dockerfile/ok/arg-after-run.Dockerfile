FROM busybox
RUN echo before
ARG LATE=1
RUN echo after
