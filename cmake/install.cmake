# Installs the program, the library's layers and their headers; find_package(refrain) and pkg-config
# find them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(layers GLOBAL PROPERTY REFRAIN_LAYERS)
install(TARGETS ${layers} refrain_library EXPORT refrainTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(REFRAIN_PROGRAM)
  install(TARGETS refrain RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# refrain/refrain.h lists those that are for use from outside.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/refrain DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" PATTERN "*-inl.h" EXCLUDE)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/refrain)
install(EXPORT refrainTargets NAMESPACE refrain:: DESTINATION ${package})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/refrainConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/refrainConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/refrainConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/refrainConfig.cmake ${PROJECT_BINARY_DIR}/refrainConfigVersion.cmake
        DESTINATION ${package})

# From the highest layer to the lowest, as linkers want static libraries.
set(libraries ${layers})
list(REVERSE libraries)
list(TRANSFORM libraries PREPEND "-l")
list(JOIN libraries " " REFRAIN_LIBRARIES)
# Wherever it is installed to, or moved.
file(RELATIVE_PATH REFRAIN_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/cmake/refrain.pc.in ${PROJECT_BINARY_DIR}/refrain.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/refrain.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
