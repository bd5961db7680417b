FROM busybox
ENV A b  c
LABEL d e f
MAINTAINER me
