FROM --platform=linux/ busybox
FROM --platform=$TARGETPLATFROM busybox
