FROM busybox
RUN --network=nat true
RUN --security=none true
RUN --device=a,b=c true
