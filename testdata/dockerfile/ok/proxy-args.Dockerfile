FROM busybox
ARG HTTP_PROXY
RUN echo
# options: --build-arg HTTP_PROXY=http://p --build-arg no_proxy=x
