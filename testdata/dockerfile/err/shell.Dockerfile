FROM busybox
SHELL
SHELL /bin/bash -c
SHELL []
