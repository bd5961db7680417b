FROM busybox
ENV
ENV A
ENV =x
ENV A=1 B
ENV A="x
ENV B='a\'b'
