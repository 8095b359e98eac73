// Stands where Mosaic would load a database for browsers: the server's is asked instead.
export {};
