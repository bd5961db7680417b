FROM busybox
LABEL a=b "c.d"="e f" g='h\i'
LABEL a=z
# options: --label extra=1 --label a=last
