FROM busybox AS scratch
FROM busybox AS a
FROM busybox AS a
