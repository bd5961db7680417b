FROM --platform=linux/amd64 busybox
FROM --platform=$TARGETPLATFORM busybox
