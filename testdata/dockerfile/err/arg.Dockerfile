FROM busybox
ARG
ARG =x
ARG A="
