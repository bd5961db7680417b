FROM with-bad-trigger
RUN x
