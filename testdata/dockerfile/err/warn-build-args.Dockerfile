FROM busybox
ARG VERSION
# options: --build-arg VERSOIN=1 --build-arg OTHER=2
