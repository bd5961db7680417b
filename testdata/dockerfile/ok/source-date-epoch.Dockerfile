FROM busybox
RUN true
# options: --build-arg SOURCE_DATE_EPOCH=1700000000
