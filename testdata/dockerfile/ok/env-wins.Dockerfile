FROM busybox
ENV V=env
ARG V=arg
RUN echo
LABEL v=$V
