200
{"stream":"Step 1/2 : FROM REG/base:1"}
{"stream":"\n"}
{"stream":" ---> SHORT\n"}
{"stream":"Step 2/2 : RUN echo pulled"}
{"stream":"\n"}
{"stream":" ---> Running in SHORT\n"}
{"stream":"pulled\n"}
{"stream":"Removing intermediate container SHORT\n"}
{"stream":" ---> SHORT\n"}
{"aux":{"ID":"sha256:LONG"}}
{"stream":"Successfully built SHORT\n"}
