# check=skipp=all
FROM busybox
