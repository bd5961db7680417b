200
{"stream":"[Warning] no ARG takes the build argument `WHO` (Dockerfile:1)\n"}
{"stream":"Step 1/2 : FROM busybox"}
{"stream":"\n"}
{"stream":" ---> SHORT\n"}
{"stream":"Step 2/2 : RUN echo on"}
{"stream":"\n"}
{"stream":" ---> Running in SHORT\n"}
{"stream":"on\n"}
{"stream":"Removing intermediate container SHORT\n"}
{"stream":" ---> SHORT\n"}
{"aux":{"ID":"sha256:LONG"}}
{"stream":"Successfully built SHORT\n"}
