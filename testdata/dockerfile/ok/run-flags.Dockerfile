FROM busybox
RUN --network=none true
RUN --network=host ["true"]
RUN --security=insecure true
RUN --device=vendor.com/gpu=all,required true
