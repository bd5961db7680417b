FROM busybox AS prepare
RUN first
FROM busybox AS idle
FROM --after=prepare --after=IDLE --after=0 busybox
COPY a /
RUN second
