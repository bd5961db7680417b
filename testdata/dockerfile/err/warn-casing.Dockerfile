FROM busybox as A
run x
RUN y
ENv A=1
