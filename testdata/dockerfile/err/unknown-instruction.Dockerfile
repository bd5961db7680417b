FROM busybox
COPPY a b
RNU x
INSTALL y
