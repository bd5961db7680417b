200
{"stream":"Step 1/2 : FROM busybox"}
{"stream":"\n"}
{"stream":" ---> SHORT\n"}
{"stream":"Step 2/2 : RUN echo squashed > /s"}
{"stream":"\n"}
{"stream":" ---> Running in SHORT\n"}
{"stream":"Removing intermediate container SHORT\n"}
{"stream":" ---> SHORT\n"}
{"aux":{"ID":"sha256:LONG"}}
{"stream":"Successfully built SHORT\n"}
