FROM busybox AS build
FROM busybox
# options: --target biuld
