FROM busybox
COPY --chmod=888 a b
COPY --chmod=12345 a b
COPY --chmod=rwx a b
ARG M=9
COPY --chmod=$M a b
