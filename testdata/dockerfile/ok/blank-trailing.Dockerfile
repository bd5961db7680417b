

   
# c
  FROM busybox   

	RUN echo x	
   # end