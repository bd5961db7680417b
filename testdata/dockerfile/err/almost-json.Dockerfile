FROM busybox
RUN ['a', 'b']
RUN ["a",]
RUN ["a"] && b
