# find_package(mmkd REQUIRED) with mmkd_DIR set to this folder defines the target mmkd::mmkd.
if(NOT TARGET mmkd::mmkd)
  add_library(mmkd::mmkd SHARED IMPORTED)
  set_target_properties(mmkd::mmkd PROPERTIES
    IMPORTED_LOCATION "${CMAKE_CURRENT_LIST_DIR}/libmmkd.so.1"
    IMPORTED_SONAME "libmmkd.so.1"
    INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_LIST_DIR}/include")
endif()
