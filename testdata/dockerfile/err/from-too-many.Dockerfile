FROM a b c d
RUN x
