FROM busybox
RUN echo a \
    # a comment
  b \
# another
  c
