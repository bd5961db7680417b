FROM busybox
LABEL a=${} b=${.} c=${x:=y} d=${x
USER ${x:?who are you}
WORKDIR ${HOEM}/x
LABEL e=${PATH#\a}
