FROM busybox
VOLUME [""]
VOLUME $nothing
