FROM foreign
RUN x
